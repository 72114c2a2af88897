-- The newest lease and commit of a source, and the end of the event log.
select
    coalesce((select fence from private.fences where source = $source), 0) as fence,
    coalesce((select round from private.fences where source = $source), 0) as round,
    coalesce((select max(sequence) from events), 0) as last_sequence
