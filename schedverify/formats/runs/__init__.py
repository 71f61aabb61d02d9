"""Files of what ran: traces and boundary logs."""
