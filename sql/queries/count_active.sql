-- Active rows per scope.
select sighting.scope, count(*)
from private.sightings as sighting
join installs as kept on kept.source = sighting.source and kept.install_id = sighting.id
where sighting.source = $source and sighting.kind = 'install' and kept.state = 'active'
group by all
union all
select 'integrations', count(*) from integrations where source = $source and state = 'active'
