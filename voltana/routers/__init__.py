"""Request routers, one algorithm a file."""
