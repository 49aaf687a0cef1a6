"""The Ray Serve application: requests in, the best candidates out."""
