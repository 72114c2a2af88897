-- How much a store holds.
select
    (select coalesce(max(sequence), 0) from events) as last_sequence,
    (select count(*) from installs) as installs,
    (select count(*) from installs where state = 'active') as active_installs,
    (select count(*) from integrations) as integrations,
    (select count(distinct source) from private.scopes) as sources
