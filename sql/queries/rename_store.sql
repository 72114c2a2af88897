-- A restored store is another one: its event ids must not repeat those of the one it came from.
update private.store set store_id = $store_id
