"""The job's shell: it finds devices, plans, deploys and generates."""
