"""The shell around the retriever: HTTP, Ray Serve and the commands that start and ask the service."""
