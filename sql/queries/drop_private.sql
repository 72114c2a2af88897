-- Ranks, sightings and fences are the walk's business.
drop schema private cascade
