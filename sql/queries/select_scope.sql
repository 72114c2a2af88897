-- A listing's last certified full walk, whether one without a certificate came after it, its active
-- rows, its suspects, and how many of those are in holds.
select
    (
        select full_at from private.scopes where source = $source and scope = $scope
    ) as full_at,
    coalesce(
        (select unsure from private.scopes where source = $source and scope = $scope), false
    ) as unsure,
    count(*) as active,
    count(kept.missing_since) as suspects,
    count(kept.missing_since) filter (kept.install_id in (select unnest($decided))) as decided
from private.sightings as sighting
join installs as kept
    on kept.source = sighting.source and kept.install_id = sighting.id and kept.state = 'active'
where sighting.source = $source and sighting.kind = 'install' and sighting.scope = $scope
