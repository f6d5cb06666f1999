"""What is shown to others: model cards, uploads to the hub, submissions and the leaderboard."""
