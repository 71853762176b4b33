"""What readers see: tables, figures and the report page, drawn from metrics files and nothing else."""
