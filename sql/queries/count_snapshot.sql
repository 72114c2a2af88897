-- What is installed now, by source, as the messages of a snapshot.
select
    'install.created' as type,
    source,
    count(*) as count,
    min(last_changed_at) as oldest,
    max(last_changed_at) as newest,
    1 as first,
    (select max(sequence) from events) as last
from installs
where state = 'active'
group by source
order by source
