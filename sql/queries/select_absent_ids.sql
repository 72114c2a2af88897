-- Known installs that the spooled walk did not bring, active ones first, then those whose newest
-- observation is oldest. Installs of integrations that are not configured are left alone.
select kept.install_id, kept.state
from installs as kept
join private.sightings as sighting
    on sighting.source = kept.source and sighting.kind = 'install' and sighting.id = kept.install_id
where
    kept.source = $source
    and kept.state <> 'purged'
    and (len($listed) = 0 or kept.integration_id in (select unnest($listed)))
    and not exists (from spooled where spooled.kind = 'install' and spooled.id = kept.install_id)
order by kept.state, sighting.observed_at, kept.install_id
