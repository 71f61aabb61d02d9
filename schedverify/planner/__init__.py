"""What the command line and Python need of several rooms together: plans, proved lowerings, joint searches, reasons."""
