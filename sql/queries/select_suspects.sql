-- The suspects of a listing: what one more walk that misses them would record as deleted.
select kept.install_id as id
from installs as kept
join private.sightings as sighting
    on sighting.source = kept.source and sighting.kind = 'install' and sighting.id = kept.install_id
where
    kept.source = $source
    and sighting.scope = $scope
    and kept.missing_since is not null
    and kept.state = 'active'
