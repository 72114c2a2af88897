-- Known objects of a kind that the spooled walk did not bring, active ones first, then those whose
-- newest observation is oldest. Integrations that are not configured are left alone.
with known as (
    select 'install' as kind, install_id as id, integration_id, state from installs
    where source = $source
    union all
    select 'integration', integration_id, integration_id, state from integrations
    where source = $source
)
select known.id, known.state
from known
join private.sightings as sighting
    on sighting.source = $source and sighting.kind = known.kind and sighting.id = known.id
where
    known.kind = $kind
    and known.state <> 'purged'
    and (len($listed) = 0 or known.integration_id in (select unnest($listed)))
    and not exists (from spooled where spooled.kind = known.kind and spooled.id = known.id)
order by known.state, sighting.observed_at, known.id
