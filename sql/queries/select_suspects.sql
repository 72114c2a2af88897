-- Rows absent but not proven gone, per scope: one more walk that misses them deletes them.
select sighting.scope, list(kept.install_id)
from installs as kept
join private.sightings as sighting
    on sighting.source = kept.source and sighting.kind = 'install' and sighting.id = kept.install_id
where kept.source = $source and kept.missing_since is not null and kept.state = 'active'
group by sighting.scope
