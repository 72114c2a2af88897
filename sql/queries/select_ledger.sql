-- The newest commit, of all and of a source with its lease, and the end of the event log.
select
    commit_number,
    committed_at,
    coalesce((select fence from private.fences where source = $source), 0) as fence,
    coalesce((select round from private.fences where source = $source), 0) as round,
    coalesce((select max(sequence) from events), 0) as last_sequence
from private.store
