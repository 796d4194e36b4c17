"""HTTP, and HTTP only: the routes, their schemas, the middleware, and the process that serves them."""
