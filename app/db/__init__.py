"""The database: engine, tables, migrations, outbox."""
