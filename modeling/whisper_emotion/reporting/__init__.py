"""Reports: pictures, tables, prediction files and model cards."""
