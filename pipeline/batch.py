"""Batch: plain sbatch scripts for a site, for those who want to see and keep what SLURM is given."""
