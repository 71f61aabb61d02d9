"""What tests share: random problems and schedules, planted faults, real processes."""
