-- Tells a copy from its store: which commit of which store it shows, and since when.
insert into publication
select store_id, commit_number, $now::timestamptz
from private.store
