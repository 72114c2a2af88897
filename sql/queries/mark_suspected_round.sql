-- Absent from a certified walk: which commit said so first.
update private.sightings
set suspected_round = $round
where source = $source and kind = 'install' and id in (select unnest($ids))
