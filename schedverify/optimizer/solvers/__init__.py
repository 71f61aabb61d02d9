"""The solvers that are asked: CP-SAT, and Pumpkin for what is small."""
