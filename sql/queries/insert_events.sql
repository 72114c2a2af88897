-- Appends to the event log.
insert into events by name
select * from new_events
