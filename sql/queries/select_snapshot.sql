-- The newest event of every install that was active at `$upto`: it carries the install as it was.
-- Few narrow columns say which; only those of one batch are read whole.
with newest as (
    select max(sequence) as sequence
    from events
    where install_id is not null and sequence <= $upto and list_contains($sources, source)
    group by source, install_id
    having
        max(sequence) > $after
        and arg_max(type, sequence) not in ('install.deleted', 'install.purged')
    order by sequence
    limit $limit
)
select events.* replace (
    null as before,
    (events.after ->> 'installed_at')::timestamptz as occurred_at
)
from newest join events on events.sequence = newest.sequence
order by newest.sequence
