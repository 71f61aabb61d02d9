"""An order and costs make a timeline: what starts when, and what is measured of it."""
