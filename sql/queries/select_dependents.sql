-- Active installs of the integrations that answered 404, and that this sync saw nowhere else.
select kept.*
from installs as kept
join staged on staged.kind = 'integration' and staged.gone and staged.id = kept.integration_id
where
    kept.source = $source
    and kept.state = 'active'
    and not exists (from spooled where spooled.kind = 'install' and spooled.id = kept.install_id)
order by kept.install_id
