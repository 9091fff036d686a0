# AWS' ready-made policy for this (AWSCodeDeployRoleForECS) may pass any role and turn any listener. This one may not.

locals {
  account     = "${var.platform.region}:${var.platform.account_id}"
  service     = "${var.serving.cluster_name}/${var.serving.service_name}"
  balancer_id = "app/${var.platform.name}"
}

resource "aws_iam_role" "this" {
  name                 = "${var.platform.name}-rollout"
  description          = "CodeDeploy: blue/green of ${var.serving.service_name}."
  permissions_boundary = var.platform.permissions_boundary_arn
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "codedeploy.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = var.platform.account_id }
        ArnLike      = { "aws:SourceArn" = "arn:aws:codedeploy:${local.account}:deploymentgroup:${var.platform.name}-api/*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  name = "blue-green"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "ReplaceTaskSets"
        Effect = "Allow"
        Action = [
          "ecs:CreateTaskSet", "ecs:DeleteTaskSet", "ecs:DescribeServices", "ecs:UpdateServicePrimaryTaskSet",
        ]
        Resource = [
          "arn:aws:ecs:${local.account}:service/${local.service}",
          "arn:aws:ecs:${local.account}:task-set/${local.service}/*",
        ]
      },
      {
        Sid    = "FindTheBalancer" # the actions know no resources
        Effect = "Allow"
        Action = [
          "elasticloadbalancing:DescribeListeners", "elasticloadbalancing:DescribeRules",
          "elasticloadbalancing:DescribeTargetGroups",
        ]
        Resource = ["*"]
      },
      {
        Sid    = "TurnTheListeners"
        Effect = "Allow"
        Action = ["elasticloadbalancing:ModifyListener", "elasticloadbalancing:ModifyRule"]
        Resource = [
          "arn:aws:elasticloadbalancing:${local.account}:listener/${local.balancer_id}/*",
          "arn:aws:elasticloadbalancing:${local.account}:listener-rule/${local.balancer_id}/*",
        ]
      },
      {
        Sid      = "WatchTheAlarms"
        Effect   = "Allow"
        Action   = ["cloudwatch:DescribeAlarms"]
        Resource = [for name in var.serving.rollback_alarm_names : "arn:aws:cloudwatch:${local.account}:alarm:${name}"]
      },
      {
        Sid       = "StartTasksWithTheirRoles"
        Effect    = "Allow"
        Action    = ["iam:PassRole"]
        Resource  = values(var.serving.role_arns)
        Condition = { StringEquals = { "iam:PassedToService" = "ecs-tasks.amazonaws.com" } }
      },
      {
        Sid      = "ReadTheRevision"
        Effect   = "Allow"
        Action   = ["s3:GetObject", "s3:GetObjectVersion"]
        Resource = ["${var.artifact_bucket_arn}/*"]
      },
      {
        Sid       = "DecryptTheRevision"
        Effect    = "Allow"
        Action    = ["kms:Decrypt"]
        Resource  = [var.platform.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "s3.${var.platform.region}.amazonaws.com" } }
      },
      {
        Sid      = "Tell"
        Effect   = "Allow"
        Action   = ["sns:Publish"]
        Resource = [var.platform.alerts_topic_arn]
      },
      {
        Sid       = "TellOnAnEncryptedTopic"
        Effect    = "Allow"
        Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource  = [var.platform.kms_key_arn]
        Condition = { StringEquals = { "kms:ViaService" = "sns.${var.platform.region}.amazonaws.com" } }
      },
    ]
  })
}
