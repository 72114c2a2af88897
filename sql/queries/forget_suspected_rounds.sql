-- The same, of the commits that made them suspects.
update private.sightings set suspected_round = null where suspected_round is not null
