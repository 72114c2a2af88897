-- The new revisions.
insert or replace into installs by name
select * from changed_installs
