"""Commands over many images, or none, that are no map of each: what the network learned."""
