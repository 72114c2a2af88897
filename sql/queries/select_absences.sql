-- Active installs of walked scopes that this sync saw nowhere in the source.
select sighting.scope, sighting.suspected_round, kept.*
from private.sightings as sighting
join installs as kept on kept.source = sighting.source and kept.install_id = sighting.id
where
    sighting.source = $source
    and sighting.kind = 'install'
    and sighting.scope in $scopes
    and kept.state = 'active'
    and sighting.observed_at < $began_at
    and not exists (from spooled where spooled.kind = 'install' and spooled.id = sighting.id)
order by sighting.rank, sighting.id
