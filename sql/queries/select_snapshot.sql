-- The newest event of every install that was active at `$upto`: it carries the install as it was.
with newest as (
    select max(sequence) as sequence
    from events
    where install_id is not null and sequence <= $upto and list_contains($sources, source)
    group by source, install_id
)
select events.* replace (
    null as before,
    (events.after ->> 'installed_at')::timestamptz as occurred_at
)
from newest join events on events.sequence = newest.sequence
where newest.sequence > $after and (events.after ->> 'state') = 'active'
order by newest.sequence
limit $limit
