"""What every framework's sources share: samples, edge inputs, checks, and what the import step leaves."""
