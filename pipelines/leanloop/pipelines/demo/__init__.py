"""The demo's world: real images, and the ways in which it makes them change."""
