resource "aws_glue_security_configuration" "this" {
  name = var.name
  encryption_configuration {
    cloudwatch_encryption {
      cloudwatch_encryption_mode = "SSE-KMS"
      kms_key_arn                = var.kms_key_arn
    }
    job_bookmarks_encryption {
      job_bookmarks_encryption_mode = "CSE-KMS"
      kms_key_arn                   = var.kms_key_arn
    }
    s3_encryption {
      s3_encryption_mode = "SSE-KMS"
      kms_key_arn        = var.kms_key_arn
    }
  }
}

resource "aws_security_group" "workers" {
  # checkov:skip=CKV2_AWS_5:the Glue connection below attaches it, which the check does not know
  name        = "${var.name}-glue"
  description = "Glue workers: they talk to one another, and HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-glue" }
}

resource "aws_vpc_security_group_ingress_rule" "workers" {
  # checkov:skip=CKV_AWS_24:open to the group itself only
  # checkov:skip=CKV_AWS_25:open to the group itself only
  # checkov:skip=CKV_AWS_260:open to the group itself only
  security_group_id            = aws_security_group.workers.id
  description                  = "Workers of one job shuffle over any port"
  referenced_security_group_id = aws_security_group.workers.id
  ip_protocol                  = "tcp"
  from_port                    = 0
  to_port                      = 65535 # Glue refuses a connection whose group does not allow itself all TCP ports
}

resource "aws_vpc_security_group_egress_rule" "workers" {
  security_group_id            = aws_security_group.workers.id
  description                  = "Workers of one job shuffle over any port"
  referenced_security_group_id = aws_security_group.workers.id
  ip_protocol                  = "tcp"
  from_port                    = 0
  to_port                      = 65535
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.workers.id
  description       = "S3, KMS and the catalog over HTTPS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_glue_connection" "network" {
  name            = "${var.name}-network"
  connection_type = "NETWORK"
  physical_connection_requirements {
    availability_zone      = var.availability_zone
    subnet_id              = var.subnet_id
    security_group_id_list = [aws_security_group.workers.id]
  }
}

resource "aws_glue_job" "data" {
  name                   = "${var.name}-data"
  description            = "Sources to token shards"
  role_arn               = var.role_arn
  glue_version           = "5.0" # Spark 3.5.4, Python 3.11
  worker_type            = var.worker_type
  number_of_workers      = var.max_workers
  timeout                = var.timeout_minutes
  max_retries            = 0 # a failed run is started by hand, its reason known
  execution_class        = "STANDARD"
  security_configuration = aws_glue_security_configuration.this.name
  connections            = [aws_glue_connection.network.name]

  command {
    name            = "glueetl"
    python_version  = "3"
    script_location = "s3://${var.data_bucket}/nexus/jobs/glue_job.py" # where `nexus data` puts it
  }
  execution_property {
    max_concurrent_runs = 1 # a second run of one recipe would write the same artifact
  }
  default_arguments = {
    "--job-language"                     = "python"
    "--additional-python-modules"        = "s3://${var.data_bucket}/nexus/jobs/wheels.zip"
    "--python-modules-installer-option"  = "--no-index"
    "--enable-auto-scaling"              = "true"
    "--enable-metrics"                   = "true"
    "--enable-observability-metrics"     = "true"
    "--enable-continuous-cloudwatch-log" = "true"
    "--enable-spark-ui"                  = "true"
    "--spark-event-logs-path"            = "s3://${var.data_bucket}/scratch/spark/"
    "--TempDir"                          = "s3://${var.data_bucket}/scratch/glue/"
  }
}

module "failed" {
  source      = "../event-alert"
  name        = "${var.name}-glue-failed"
  description = "A Glue job of ours failed or ran out of time."
  runbook     = "failed-job"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.glue"]
    detail-type = ["Glue Job State Change"]
    # `nexus data` makes a job for each recipe.
    detail = { jobName = [aws_glue_job.data.name, { prefix = "nexus-data-" }], state = ["FAILED", "TIMEOUT"] }
  })
}
