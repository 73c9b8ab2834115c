"""What every part uses: errors, files, outputs and their records, the environment, progress."""
