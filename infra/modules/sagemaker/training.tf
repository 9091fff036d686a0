# Where models are trained, ordered and registered. Jobs themselves are started by runs, not by Terraform.

resource "aws_sagemaker_model_package_group" "this" {
  model_package_group_name        = "${var.name}-models"
  model_package_group_description = "Versions of our model; one is approved at a time"
}

resource "aws_security_group" "training" {
  # checkov:skip=CKV2_AWS_5:training jobs attach it; they are started by runs
  name        = "${var.name}-training"
  description = "Training machines: they talk to one another, and HTTPS goes out"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-training" }
}

resource "aws_vpc_security_group_ingress_rule" "training" {
  security_group_id            = aws_security_group.training.id
  description                  = "Machines of one job exchange gradients over any port"
  referenced_security_group_id = aws_security_group.training.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "training" {
  security_group_id            = aws_security_group.training.id
  description                  = "Machines of one job exchange gradients over any port"
  referenced_security_group_id = aws_security_group.training.id
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.training.id
  description       = "S3, KMS, ECR and tracking over HTTPS"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_sagemaker_pipeline" "this" {
  count                 = var.pipeline_file == null ? 0 : 1
  pipeline_name         = "${var.name}-pipeline"
  pipeline_display_name = "${var.name}-pipeline"
  pipeline_description  = "From text to a registered model"
  role_arn              = var.role_arn
  pipeline_definition   = jsonencode(jsondecode(file(var.pipeline_file)))
  parallelism_configuration {
    max_parallel_execution_steps = 4
  }
}

module "failed" {
  source      = "../event-alert"
  name        = "${var.name}-sagemaker-failed"
  description = "A training job of ${var.name} failed."
  runbook     = "failed-job"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.sagemaker"]
    detail-type = ["SageMaker Training Job State Change"]
    detail      = { TrainingJobStatus = ["Failed"], RoleArn = [var.role_arn] }
  })
}

module "pipeline_failed" {
  count       = var.pipeline_file == null ? 0 : 1
  source      = "../event-alert"
  name        = "${var.name}-pipeline-failed"
  description = "An execution of the pipeline ${var.name}-pipeline failed."
  runbook     = "failed-job"
  topic_arn   = var.alerts_topic_arn
  pattern = jsonencode({
    source      = ["aws.sagemaker"]
    detail-type = ["SageMaker Model Building Pipeline Execution Status Change"]
    detail      = { currentPipelineExecutionStatus = ["Failed"], pipelineArn = [aws_sagemaker_pipeline.this[0].arn] }
  })
}
