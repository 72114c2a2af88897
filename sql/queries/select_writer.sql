-- Which stocktake brought the store to its schema; not known before the second one.
select written_by from private.store
