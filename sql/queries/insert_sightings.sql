-- What was seen for the first time. A 404 of something we never saw is nothing.
insert into private.sightings by name
select $source as source, kind, id, scope, observed_at, observed_at as seen_at, digest
from staged
where kept_digest is null and not gone
