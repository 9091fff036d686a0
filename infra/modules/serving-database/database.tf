# PostgreSQL for keys, limits and usage, when several gateways must agree on them. Aurora Serverless: it follows the load,
# and its Data API lets the one set-up statement be sent without a way into the VPC.

resource "aws_db_subnet_group" "this" {
  name        = "${var.platform.name}-keys"
  description = "Private subnets of ${var.platform.name}"
  subnet_ids  = var.platform.private_subnet_ids
}

resource "aws_rds_cluster_parameter_group" "this" {
  name        = "${var.platform.name}-keys"
  description = "TLS only; changes of tables are logged"
  family      = "aurora-postgresql${var.postgres_version}"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  parameter {
    name  = "log_statement" # statements with values would log callers' names
    value = "ddl"
  }
}

resource "aws_rds_cluster" "this" {
  # checkov:skip=CKV2_AWS_8:Aurora's own continuous backup restores to any second of backup_days, and a last snapshot stays
  # checkov:skip=CKV2_AWS_27:statements carry callers' names and key hashes; only changes of tables are logged
  cluster_identifier              = "${var.platform.name}-keys"
  engine                          = "aurora-postgresql"
  engine_mode                     = "provisioned" # what serverless v2 calls itself
  engine_version                  = var.postgres_version
  database_name                   = "nexus"
  db_subnet_group_name            = aws_db_subnet_group.this.name
  db_cluster_parameter_group_name = aws_rds_cluster_parameter_group.this.name
  vpc_security_group_ids          = [aws_security_group.this.id]
  storage_encrypted               = true
  kms_key_id                      = var.platform.kms_key_arn

  # RDS makes, keeps and rotates the administrator's password; it is in no state file, and the gateway never has it.
  master_username                     = "nexus_admin"
  manage_master_user_password         = true
  master_user_secret_kms_key_id       = var.platform.kms_key_arn
  iam_database_authentication_enabled = true
  enable_http_endpoint                = true

  backup_retention_period         = var.backup_days
  preferred_backup_window         = "02:00-03:00"
  preferred_maintenance_window    = "sun:03:30-sun:04:30"
  copy_tags_to_snapshot           = true
  deletion_protection             = var.is_deletion_protected
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.platform.name}-keys-final"
  enabled_cloudwatch_logs_exports = ["postgresql"]

  # Continuous backup ends with the cluster and never leaves its region: the platform's vault takes a daily copy.
  tags = { backup = "daily" }

  serverlessv2_scaling_configuration {
    min_capacity = var.capacity_units.min
    max_capacity = var.capacity_units.max
  }

  depends_on = [aws_cloudwatch_log_group.this]
}

resource "aws_rds_cluster_instance" "this" {
  # checkov:skip=CKV_AWS_118:the agent's per-second figures of the host say little of a database of keys; Performance Insights and the alarm on capacity units stay
  count                           = var.instances
  identifier                      = "${var.platform.name}-keys-${count.index}"
  cluster_identifier              = aws_rds_cluster.this.id
  engine                          = aws_rds_cluster.this.engine
  engine_version                  = aws_rds_cluster.this.engine_version
  instance_class                  = "db.serverless"
  db_subnet_group_name            = aws_db_subnet_group.this.name
  publicly_accessible             = false
  auto_minor_version_upgrade      = true
  copy_tags_to_snapshot           = true
  performance_insights_enabled    = true
  performance_insights_kms_key_id = var.platform.kms_key_arn
  ca_cert_identifier              = "rds-ca-rsa2048-g1"
}

# RDS would make this group by itself: in plain text, and kept for ever.
resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/rds/cluster/${var.platform.name}-keys/postgresql"
  kms_key_id        = var.platform.kms_key_arn
  retention_in_days = var.log_retention_days
}

resource "aws_cloudwatch_metric_alarm" "capacity" {
  alarm_name          = "${var.platform.name}-keys-capacity"
  alarm_description   = "The database of keys has used more than 80 % of its largest capacity for 15 minutes. Runbook: docs/runbooks/database-down.md"
  namespace           = "AWS/RDS"
  metric_name         = "ACUUtilization"
  dimensions          = { DBClusterIdentifier = aws_rds_cluster.this.cluster_identifier }
  statistic           = "Average"
  period              = 300
  evaluation_periods  = 3
  comparison_operator = "GreaterThanThreshold"
  threshold           = 80
  treat_missing_data  = "missing"
  alarm_actions       = [var.platform.alerts_topic_arn]
  ok_actions          = [var.platform.alerts_topic_arn]
}
