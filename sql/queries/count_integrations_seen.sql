-- Integrations we knew as active and saw again in this sync.
select count(*)
from staged
join integrations as kept on kept.source = $source and kept.integration_id = staged.id
where staged.kind = 'integration' and not staged.gone and kept.state = 'active'
