# Spark without a cluster to look after. Nothing is kept warm: an idle application costs nothing.

resource "aws_security_group" "workers" {
  # checkov:skip=CKV2_AWS_5:the application below attaches it, which the check does not know
  name        = "${var.name}-emr"
  description = "EMR Serverless workers: nothing comes in, HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-emr" }
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.workers.id
  description       = "S3, KMS, Glue catalog and packages over HTTPS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_emrserverless_application" "this" {
  name          = "${var.name}-data"
  release_label = var.release
  type          = "SPARK"
  architecture  = "X86_64" # the wheels of the packed environment are built for it

  auto_start_configuration {
    enabled = true
  }
  auto_stop_configuration {
    enabled              = true
    idle_timeout_minutes = var.idle_minutes
  }
  maximum_capacity {
    cpu    = "${var.max_vcpus} vCPU"
    memory = "${var.max_vcpus * 4} GB" # as Glue's G workers have it
  }
  network_configuration {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.workers.id]
  }
}

module "failed" {
  source      = "../event-alert"
  name        = "${var.name}-emr-failed"
  description = "A Spark job on EMR Serverless failed."
  runbook     = "failed-job"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.emr-serverless"]
    detail-type = ["EMR Serverless Job Run State Change"]
    detail      = { state = ["FAILED"], applicationId = [aws_emrserverless_application.this.id] }
  })
}
