-- Which stocktake wrote the schema, so that an older one can say what is needed.
alter table private.store add column written_by varchar;
comment on column private.store.written_by is 'The stocktake that brought the store to its schema';
