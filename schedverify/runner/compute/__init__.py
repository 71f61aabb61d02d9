"""What a rank computes: batches cut up, stages forward and backward, gradients added up."""
