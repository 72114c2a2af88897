-- The integrations we hold active.
select integration_id from integrations where source = $source and state = 'active' order by all
