-- The installs of a listing as last known, newest first; those without a rank last, they are no
-- evidence. Deleted ones too, where the listing may show them.
select sighting.id, sighting.digest, sighting.rank
from private.sightings as sighting
join installs as kept on kept.source = sighting.source and kept.install_id = sighting.id
where
    sighting.source = $source
    and sighting.kind = 'install'
    and sighting.scope = $scope
    and (kept.state = 'active' or ($deleted and kept.state = 'deleted'))
order by sighting.rank nulls last
