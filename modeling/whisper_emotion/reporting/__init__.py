"""Results for readers: pictures, tables, files of predictions and the model card."""
