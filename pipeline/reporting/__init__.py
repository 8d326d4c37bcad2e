"""Tables, figures and the report page, drawn from what train and evaluate leave; no torch, no mmdet."""
