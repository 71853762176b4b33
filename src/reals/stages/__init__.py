"""One module per stage of the DAG: files in, files out; each is called with a context and an artefact."""
