-- The new revisions.
insert or replace into integrations by name
select * from changed_integrations
