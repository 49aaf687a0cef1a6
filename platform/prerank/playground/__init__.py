"""The playground: a web page beside a deployment, on which people try its rankings."""
